"""The bad-input catalogue, D1 to D24: files of batches, data sets, checkpoints and judges.

An upload to the gateway is answered 400 `invalid_file` with the mistake's line; commands end with a
line of words, which stand in the tests. What does *not* live here: see `bad_input_catalogue.py`.
"""

from tests.contracts.catalogue_item import TAKEN, Item, refused

_LINES = "protocol/test_batch_lines.py::test_"
_MISTAKE = _LINES + "a_mistake_is_told_with_its_line"
_UPLOAD = "end_to_end/test_batches.py::test_a_wrong_input_is_refused_with_its_line"
_IMAGES = "evaluation/test_item_images.py::test_"
_PREPARE = "evaluation/test_prepare.py::test_"
_CHECKPOINT = "modeling/test_checkpoint_files.py::test_damage_is_told_in_one_line"
_BAD = "modeling/test_bad_checkpoints.py::test_"
_DELTA = "modeling/test_deltas.py::test_"
_JUDGING = "evaluation/test_judging.py::test_"
_TAR = "datagen/download/test_tar_stream.py::test_"
_FAULTS = "datagen/download/test_faults.py::test_"
_FILE = refused("invalid_file")

FILES = (
    Item("D1", "a batch of no line", _FILE, (_UPLOAD, _MISTAKE), ("empty_file", "no line")),
    Item("D2", "50,001 lines", (), (_LINES + "one_line_too_many_is_refused",),
         ("too_many_lines", "MAX_LINES")),
    Item("D3", "more than 200 MB", refused("request_too_large", status=413),
         ("end_to_end/test_batches.py::test_a_file_beyond_200_mb_is_refused_before_it_has_come",),
         deviation="413, as the route's limit of item 7"),
    Item("D4", "custom_id twice", _FILE, (_UPLOAD, _MISTAKE),
         ("duplicate_custom_id", "stands in line 1, too")),
    Item("D5", "no custom_id", _FILE, (_UPLOAD, _MISTAKE),
         ("invalid_custom_id", "missing required field")),
    Item("D6", "several models, another URL", _FILE, (_UPLOAD, _MISTAKE),
         ("mismatched_model", "invalid_url", "a batch has one model")),
    Item("D7", "a line over 8 MiB", (), (_MISTAKE,), ("line_too_long",)),
    Item("D8", "a torn last line", _FILE, (_UPLOAD, _MISTAKE),
         ("invalid_json_line", "line 2 is no JSON")),
    Item("D9", "NUL, Latin-1", _FILE, (_UPLOAD, _MISTAKE), ("invalid_json_line", "latin-1")),
    Item("D10", "CRLF, byte order mark", (TAKEN,),
         (_LINES + "byte_order_mark_carriage_returns_and_empty_lines_are_taken",
          "training/test_records.py::test_a_byte_order_mark_and_white_space_are_passed_over")),
    Item("D11", "image paths that lead elsewhere, links, devices, pipes, 0 bytes", (),
         (_IMAGES + "what_is_no_file_of_the_folder_is_refused_and_not_waited_for",
          _PREPARE + "what_cannot_be_used_is_left_out_and_counted",
          _PREPARE + "a_name_that_leads_elsewhere_is_left_out",
          "training/test_examples.py::test_a_malformed_record_is_refused_with_its_reason"),
         ("lies outside", "is no file", "/dev/zero", "mkfifo", "leads out of the image folder")),
    Item("D12", "names that differ by case or composition", (),
         (_IMAGES + "names_that_look_alike_are_files_of_their_own",), ("Scan.png",)),
    Item("D13", "a field of another type, 1,000 levels", (),
         (_MISTAKE, "training/test_records.py::test_too_deep_a_record_is_broken"),
         ("invalid_line", "levels")),
    Item("D14", "a label outside its set, a score that is NaN", (),
         (_PREPARE + "a_record_of_another_shape_is_named",
          _JUDGING + "a_reply_has_two_scores_or_none"),
         ("answer_type 'OTHER'; allowed are", "nan 7")),
    Item("D15", "archives with paths, links, bombs", (),
         (_FAULTS + "members_with_dangerous_names_write_nothing_outside",
          _FAULTS + "what_is_too_large_is_refused_while_it_comes",
          _TAR + "links_are_no_files_and_archives_of_two_gzip_parts_are_one",
          _TAR + "a_bomb_ends_at_the_limit_without_being_held"),
         ("unsafe-member", "archive-too-large", "SYMTYPE"),
         deviation="tar only: no command opens a zip. Members are looked for by name while the"
         " archive streams past, so a million of them cost no more than their bytes"),
    Item("D16", "formulas in exported tables", (),
         ("evaluation/test_report.py::test_no_cell_is_a_formula",
          "launcher/test_audit_command.py::test_no_cell_is_a_formula"), ("=cmd",)),
    Item("D17", "HTML in prompts and answers", (),
         ("evaluation/test_command.py::test_a_report_shows_answers_as_text",
          "evaluation/test_report.py::test_a_judged_report_shows_answers_and_replies_as_text",
          "datagen/stats/test_page_in_browser.py::test_in_the_page_nothing_runs_and_nothing_leaves"),
         ("<script", "onerror"), deviation="reports and pages; the front end is not there yet"),
    Item("D18", "replies of a judge that are no scores", (),
         (_JUDGING + "a_reply_has_two_scores_or_none",
          _JUDGING + "replies_that_are_no_scores_and_an_injected_ten_are_counted"),
         ("11 of 10", "Ignore the rubric", "addressing_judge")),
    Item("D19", "safetensors that lie", (), (_CHECKPOINT,),
         ("header claims", "is no JSON", "overlaps another tensor", "leaves a gap",
          "names that differ", "impossible type, shape or place", "its shape needs")),
    Item("D20", "NaN and infinity", (),
         ("modeling/test_finite_weights.py::test_the_weight_is_named",
          "modeling/test_adapter_files.py::test_what_would_not_act_or_fit_is_refused_in_one_line"),
         ("holds NaN or infinity",)),
    Item("D21", "pickles, under other names too", (),
         (_CHECKPOINT, _BAD + "a_pickle_with_a_command_in_it_runs_nothing",
          _BAD + "a_pickled_tower_with_a_command_in_it_runs_nothing",
          _PREPARE + "a_pickle_is_refused"),
         ("may be a pickle", "pickle under another name", "holds more than tensors")),
    Item("D22", "deltas of another base, other tensors, other shapes", (),
         (_DELTA + "another_base_is_refused_with_both_hashes",
          _DELTA + "tensors_that_do_not_fit_are_named"), ("not the base", "extra", "shape")),
    Item("D23", "checkpoints that bring code", (),
         (_CHECKPOINT, _BAD + "code_in_a_directory_is_neither_run_nor_copied",
          "modeling/test_checkpoint_files.py::"
          "test_a_wish_to_run_code_without_code_has_no_effect"),
         ("has an auto_map", "is code", "trust_remote_code"),
         deviation="`trust_remote_code` alone is no reason to refuse: nothing reads it, and without"
         " `auto_map` or a Python file there is no code"),
    Item("D24", "an index that leads outside, a shard that is missing", (),
         (_CHECKPOINT, _BAD + "an_index_of_safetensors_that_points_outside_is_refused",
          _BAD + "a_worker_refuses_an_index_that_points_outside"),
         ("is missing", "outside its directory")),
)  # fmt: skip
