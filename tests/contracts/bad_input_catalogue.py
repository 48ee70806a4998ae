"""The bad-input catalogue, 1 to 118: what is sent, how exactly it is answered, and what proves it.

The reliability programme's section 6 has the inputs. `test_bad_input_catalogue.py` compares this
list with the tests and with the gateway's table of codes. What does *not* live here: the inputs
themselves (the tests have them), files and the server's own states (`bad_file_catalogue.py`).
"""

from tests.contracts.catalogue_item import SERVER, TAKEN, Answer, Item, refused

BODIES = "end_to_end/test_bad_input.py::test_bad_body_is_refused_exactly_and_touches_no_worker"
"""Its inputs and answers are rows of `end_to_end/bad_requests.py`, which have these numbers."""

_IN = "end_to_end/test_bad_input.py::test_"
_HTTP = "end_to_end/test_bad_http.py::test_"
_NO_HTTP = _HTTP + "3_15_what_is_no_request_is_refused_in_openai_s_shape_and_the_connection_ends"
_KEYS = "end_to_end/test_keys.py::test_"
_DECODER = "gateway/media/test_decoder.py::test_"
_OTHERS = "gateway/media/test_other_formats.py::test_"
_MEDICAL = "gateway/media/test_medical_images.py::test_"
_FILES = "modeling/medical_images/test_dicom.py::test_"
_URLS = "gateway/test_url_policy.py::test_"
_FETCH = "gateway/media/test_fetch.py::test_"
_SOURCES = "end_to_end/test_image_sources.py::test_"

HTTP = (
    Item("1", "unknown path", refused("not_found", status=404), (_HTTP + "1_unknown_path",)),
    Item("2", "GET on a POST route", refused("method_not_allowed", status=405),
         (_HTTP + "2_3_known_path_with_another_method",)),
    Item("3", "methods FOO, _private", refused("method_not_allowed", status=405), (_NO_HTTP,)),
    *(
        Item(number, inputs, refused("unsupported_media_type", status=415),
             (_HTTP + "4_5_6_other_media_types",))
        for number, inputs in (("4", "no content type"), ("5", "text/plain"),
                               ("6", "multipart on chat"))
    ),
    Item("7", "Content-Length over the route's limit", refused("request_too_large", status=413),
         (_HTTP + "7_declared_length_over_the_limit_is_refused_before_the_body",
          "end_to_end/test_batches.py::test_a_file_beyond_200_mb_is_refused_before_it_has_come")),
    Item("8", "chunked body past the limit", refused("request_too_large", status=413),
         (_HTTP + "8_chunked_body_that_grows_past_the_limit_is_refused_on_the_way",)),
    Item("9", "Content-Length longer than the body", refused("request_timeout", status=408),
         (_HTTP + "9_body_that_never_comes_is_a_time_out",)),
    Item("10", "Content-Length and Transfer-Encoding", refused("bad_request"),
         (_HTTP + "10_length_with_two_meanings_is_refused",)),
    Item("11", "headers over 16 KiB or 100",
         refused("request_header_fields_too_large", status=431), (_NO_HTTP,)),
    Item("12", "URL over 8 KiB", refused("uri_too_long", status=414), (_NO_HTTP,)),
    Item("14", "Host a/?x=", refused("bad_request"),
         (_HTTP + "14_host_that_would_change_the_url_is_refused",
          _KEYS + "a_host_that_would_be_a_path_opens_nothing")),
    Item("15", "paths @evil, //, %2e%2e",
         (*refused("bad_request"), *refused("not_found", "model_not_found", status=404)),
         (_NO_HTTP, _HTTP + "1_unknown_path", _HTTP + "15_path_of_a_model_stays_a_name")),
    Item("16", "1,000 ranges", (TAKEN,), (_HTTP + "16_a_thousand_ranges_are_passed_over",)),
    Item("17", "Expect: 100-continue, then silence", refused("request_timeout", status=408),
         (_HTTP + "17_a_client_that_waits_for_100_and_then_sends_nothing_is_a_time_out",)),
)  # fmt: skip

JSON = (
    Item("18", "empty body", refused("invalid_json"), (BODIES,)),
    Item("20", "truncated", refused("invalid_json"), (BODIES,)),
    Item("21", "NaN, Infinity, 1e999", refused("invalid_json"), (BODIES,)),
    Item("22", "duplicate keys", refused("duplicate_key"), (BODIES,)),
    Item("23", "deeper than 64", refused("too_deep"), (BODIES,)),
    Item("25", "lone surrogate", refused("invalid_unicode"), (BODIES,)),
    Item("26", "invalid UTF-8", refused("invalid_unicode"), (BODIES,)),
    Item("28", "byte order mark", refused("invalid_json", "invalid_unicode"), (BODIES,)),
    Item("29", "NUL in a text", refused("invalid_unicode", "invalid_json"), (BODIES,)),
    Item("30", "trailing garbage", refused("invalid_json"), (BODIES,)),
    Item("32", "30 MiB in `model`", refused("string_too_long"),
         (BODIES, _IN + "32_string_of_30_mebibytes_is_refused_fast_and_leaves_no_memory"),
         deviation="0.1 s is held as 0.5 s: the machine of the tests is shared"),
    Item("33", "trailing comma, comment, no object", refused("invalid_json", "invalid_value"),
         (BODIES,)),
)  # fmt: skip

_VALUE = refused("invalid_value")
_MISSING = refused("missing_required_parameter")
_UNSUPPORTED = refused("unsupported_parameter")

PARAMETERS = (
    Item("34", "model missing", (*_MISSING, *_VALUE), (BODIES,)),
    Item("35", "unknown model", refused("model_not_found", status=404), (BODIES,)),
    Item("36", "model of a path, of 1,000 characters", refused("model_not_found", status=404),
         (BODIES,)),
    Item("37", "messages missing", _MISSING, (BODIES,)),
    Item("38", "messages []", _VALUE, (BODIES,)),
    Item("39", "257 messages", _VALUE, (BODIES,)),
    Item("40", "role unknown or missing", (*_VALUE, *_MISSING), (BODIES,)),
    Item("41", "content null or missing", (*_VALUE, *_MISSING), (BODIES,)),
    Item("42", "content []", _VALUE, (BODIES,)),
    Item("43", "unknown part, or a file that is no image",
         (*_VALUE, *_MISSING, *_UNSUPPORTED, *refused("unsupported_image_type")), (BODIES,)),
    Item("44", "max_tokens 0, -1, 1e9, 1.5, \"10\"", _VALUE, (BODIES,)),
    Item("45", "prompt and answer beyond the context", refused("context_length_exceeded"),
         (_IN + "45_context_that_cannot_hold_prompt_and_answer",)),
    Item("47", "temperature", _VALUE, (BODIES,)),
    Item("48", "top_p", _VALUE, (BODIES,)),
    Item("49", "n 0, -1, 129, 5,000,000", _VALUE,
         (BODIES, _IN + "49_huge_n_is_refused_fast_and_allocates_nothing")),
    Item("50", "best_of", _UNSUPPORTED, (BODIES,)),
    Item("51", "stop of 5, empty, 10 KiB", _VALUE, (BODIES,)),
    Item("52", "stop_token_ids", _UNSUPPORTED, (BODIES,)),
    Item("54", "top_logprobs 21, -1, 1e9", _VALUE, (BODIES,)),
    Item("55", "prompt_logprobs -1", _UNSUPPORTED, (BODIES,)),
    Item("56", "seed 2**64", _VALUE, (BODIES,)),
    Item("57", "penalties of 2.1", _VALUE, (BODIES,)),
    Item("58", "repetition_penalty 0", _VALUE, (BODIES,)),
    Item("60", "chat_template, media_io_kwargs, api_base, ...", _UNSUPPORTED, (BODIES,)),
    Item("61", "schema of 1 MiB, depth 100, $ref in a circle or elsewhere",
         (*_VALUE, *_UNSUPPORTED, *refused("too_deep")),
         (BODIES,
          "end_to_end/test_sdk_json.py::test_61_a_schema_that_no_grammar_can_follow_is_refused",
          "worker/test_schema_check.py::test_a_schema_that_would_never_compile_is_given_up"),
         deviation="`invalid_value` with the parameter's name instead of `invalid_schema`: clients"
         " have one code for every value that is not taken. Depth 100 is the JSON's own limit"),
    Item("62", "pattern (a+)+$", (*_UNSUPPORTED, TAKEN),
         (BODIES, "end_to_end/test_sdk_json.py::test_62_a_pattern_that_others_choke_on_is_harmless",
          "worker/test_schema_check.py::test_a_schema_that_would_never_compile_is_given_up"),
         deviation="in a schema it is taken: patterns are compiled to automata, in a child with"
         " limits, and never backtrack; a bare regex is no parameter here"),
    Item("63", "1,000 tools, a name with ;", (*_VALUE, *_UNSUPPORTED), (BODIES,)),
    Item("64", "special tokens in text", (TAKEN,), (_IN + "64_special_tokens_in_text_are_text",
         "end_to_end/test_sdk_conformance.py::test_special_token_typed_by_a_user_is_text")),
    Item("65", "stream \"yes\"", (*_VALUE, *_UNSUPPORTED, *refused("string_too_long")), (BODIES,)),
)  # fmt: skip

_INVALID_IMAGE = refused("invalid_image")
_TOO_LARGE = refused("image_too_large")
_HUNGRY = (_DECODER + "the_hungriest_images_stay_below_512_mebibytes",
           _OTHERS + "74_the_hungriest_of_40_megapixels_stay_below_512_mebibytes")  # fmt: skip
_PIXELS = _OTHERS + "74_75_76_too_many_pixels_are_refused_before_they_are_decoded"

IMAGES = (
    Item("66", "not base64", _INVALID_IMAGE, (BODIES,)),
    Item("67", "bad padding, blanks", _INVALID_IMAGE,
         (BODIES, _DECODER + "what_is_not_base64_is_an_invalid_image")),
    Item("69", "data:text/html", refused("unsupported_image_type"), (BODIES,)),
    Item("70", "empty", _INVALID_IMAGE, (BODIES,)),
    Item("71", "HTML, SVG, PDF, EPS, PSD, FITS, DDS, WMF", refused("unsupported_image_type"),
         (BODIES, _DECODER + "71_other_types_are_unsupported")),
    Item("72", "truncated", _INVALID_IMAGE, (BODIES, _DECODER + "72_a_truncated_image_is_invalid")),
    Item("74", "bomb of 50,000 x 50,000", _TOO_LARGE,
         (BODIES, _IN + "image_bomb_is_refused_fast_and_leaves_no_memory",
          _DECODER + "74_a_one_bit_bomb_is_too_large", _PIXELS, *_HUNGRY)),
    Item("75", "header of 65,535 x 65,535", _TOO_LARGE,
         (BODIES, _DECODER + "too_many_pixels_are_refused_by_the_header", _PIXELS)),
    Item("76", "40.1 megapixels", _TOO_LARGE, (BODIES, _PIXELS)),
    Item("77", "bombs in metadata", (*_INVALID_IMAGE, TAKEN),
         (BODIES, _DECODER + "77_compressed_metadata_bombs_are_invalid_within_a_second",
          _OTHERS + "77_80_a_tiff_that_claims_what_it_has_not_is_invalid_soon",
          _OTHERS + "77_a_gif_of_endless_comments_ends_with_its_cpu_time",
          _OTHERS + "77_78_only_what_the_first_frame_needs_is_read"),
         deviation="metadata of a TIFF that are never read, and pixels beyond the first frame's"
         " size, do no harm: 200"),
    Item("78", "10,000 frames", (TAKEN,),
         (_IN + "78_only_the_first_frame_of_an_apng_counts",
          _DECODER + "78_only_the_first_frame_of_an_apng_is_decoded",
          _OTHERS + "77_78_only_what_the_first_frame_needs_is_read",
          _MEDICAL + "78_only_the_first_of_many_pages_is_decoded")),
    Item("80", "many tiles", refused("invalid_image", "invalid_dicom", "unsupported_image_type"),
         (_OTHERS + "77_80_a_tiff_that_claims_what_it_has_not_is_invalid_soon",
          _MEDICAL + "80_a_jpeg_2000_frame_of_many_tiles_is_invalid_soon",
          _FILES + "80_89_a_frame_that_lacks_tiles_is_not_shown_with_black_ones",
          _DECODER + "71_other_types_are_unsupported"),
         deviation="JPEG 2000 is taken within DICOM only; alone it is `unsupported_image_type`"),
    Item("81", "1 x 1, 1 x N, 27 x 27", refused("image_too_small"),
         (BODIES, _DECODER + "81_too_small_images")),
    Item("83", "30 x 100 and 100 x 30 of the same bytes", (TAKEN,),
         (_IN + "83_same_pixels_in_another_shape_are_another_image",)),
    Item("84", "CMYK, 16 bits, palette, rotated", (TAKEN,),
         (_IN + "84_images_of_unusual_modes_are_good",
          _DECODER + "cmyk_16_bit_palette_and_rotated_images_have_golden_pixels")),
    Item("85", "metadata", (TAKEN,),
         (_DECODER + "85_86_no_metadata_and_no_tail_come_through",
          _OTHERS + "85_86_no_metadata_and_no_tail_come_through",
          "end_to_end/test_patient_data.py::test_after_their_end_requests_are_nowhere")),
    Item("86", "polyglots", (TAKEN,),
         (_IN + "86_tail_of_a_polyglot_is_gone_from_the_store",
          _DECODER + "85_86_no_metadata_and_no_tail_come_through",
          _OTHERS + "85_86_no_metadata_and_no_tail_come_through")),
    Item("87", "17 images, 67 megapixels", refused("too_many_images"), (BODIES,)),
)  # fmt: skip

DICOM = (
    Item("88", "no preamble, no DICM", refused("invalid_dicom"), (BODIES,)),
    Item("89", "truncated pixels", refused("invalid_dicom"),
         (BODIES, _FILES + "89_a_compressed_frame_that_was_cut_is_refused")),
    Item("91", "transfer syntax that is not taken", refused("unsupported_transfer_syntax"),
         (BODIES,)),
    Item("92", "deflated bomb", _TOO_LARGE,
         (BODIES, _FILES + "hostile_files_are_refused_within_a_second")),
    Item("93", "nesting of 10,000, endless lengths", refused("invalid_dicom"),
         (BODIES, _FILES + "hostile_files_are_refused_within_a_second")),
    Item("94", "DICOMDIR with ..\\..", refused("invalid_dicom"),
         (BODIES, "end_to_end/test_loads_nothing.py::test_no_process_loads_objects_or_opens_files"),
         ),
    Item("95", "tags of a patient, text within the pixels", (*refused("phi_burned_in"), TAKEN),
         (BODIES,
          "end_to_end/test_dicom.py::test_a_dicom_file_is_answered_and_its_words_are_nowhere",
          "end_to_end/test_dicom.py::"
          "test_an_uploaded_dicom_file_is_in_its_own_file_alone_and_goes_with_it"),
         deviation="no tag is rewritten or re-mapped: none leaves the process that reads it"),
    Item("97", "names with escapes and line breaks", (TAKEN,),
         ("end_to_end/test_dicom.py::test_a_dicom_file_is_answered_and_its_words_are_nowhere",)),
)  # fmt: skip

_NOT_ALLOWED = refused("url_not_allowed")
_NO_PACKET = _FETCH + "nothing_is_sent_for_a_url_that_is_not_listed"
_DISABLED = refused("url_fetch_disabled")

URLS = (
    Item("98", "other schemes", (*_DISABLED, *_INVALID_IMAGE, *_VALUE, *_NOT_ALLOWED),
         (BODIES, _URLS + "refused", _SOURCES + "what_is_not_listed_is_not_asked"),
         deviation="without a list, what is neither http(s) nor data: is `invalid_image`"),
    Item("99", "this machine", _NOT_ALLOWED, (_URLS + "refused", _NO_PACKET)),
    Item("100", "127.1, 0x7f.1, 2130706433, 0177.0.0.1", _NOT_ALLOWED,
         (_URLS + "refused", _NO_PACKET)),
    Item("101", "metadata of clouds", _NOT_ALLOWED,
         (_URLS + "refused", _URLS + "addresses_that_are_not_dialled")),
    Item("102", "mapped, NAT64 and 6to4 addresses", _NOT_ALLOWED,
         (_URLS + "refused", _URLS + "addresses_that_are_not_dialled")),
    Item("103", "two hosts in one URL", _NOT_ALLOWED, (_URLS + "refused",)),
    Item("104", "hosts in other letters", _NOT_ALLOWED, (_URLS + "refused",)),
    Item("105", "a name that resolves otherwise the second time", _NOT_ALLOWED,
         (_FETCH + "name_is_resolved_once_and_what_was_checked_is_dialled",
          _FETCH + "name_that_leads_to_this_machine_is_not_dialled")),
    Item("106", "redirects", (*_NOT_ALLOWED, *refused("image_fetch_failed")),
         (_FETCH + "redirect_to_elsewhere_is_refused",
          _FETCH + "three_redirects_are_followed_and_not_more",
          _SOURCES + "pages_and_redirects_to_elsewhere"),
         deviation="a loop on listed hosts is `image_fetch_failed`: every hop was allowed"),
    Item("107", "ports 22 and 6379", _NOT_ALLOWED, (_URLS + "refused",)),
    Item("108", "endless, dripping, lying, packed bodies", refused("image_fetch_failed"),
         (_FETCH + "bad_answers", _FETCH + "endless_body_is_cut_at_the_limit",
          _FETCH + "dripping_body_ends_with_the_total_time")),
    Item("109", "200 with HTML", refused("image_fetch_failed"),
         (_SOURCES + "pages_and_redirects_to_elsewhere",)),
)  # fmt: skip

_KEY = refused("invalid_api_key", status=401, kind="authentication_error")
_LIMITED = refused("rate_limit_exceeded", status=429, kind="rate_limit_error")

AUTH = (
    Item("110", "no key", refused("missing_api_key", status=401, kind="authentication_error"),
         (_KEYS + "every_route_but_two_asks_for_a_key",
          _KEYS + "what_is_no_route_asks_for_a_key_too")),
    Item("111", "odd keys", (*_KEY, *refused("bad_request")),
         (_KEYS + "odd_keys_are_refused_alike_and_soon", _KEYS + "two_keys_are_none",
          _KEYS + "a_line_break_in_a_key_ends_at_the_parser",
          "gateway/test_key_timing.py::test_no_time_tells_which_keys_there_are"),
         deviation="a line break is no HTTP: 400 `bad_request`, before any key is looked at; 50 ms"
         " are held as 1 s, the machine of the tests being shared"),
    Item("112", "revoked, expired", _KEY,
         (_KEYS + "a_revoked_key_is_refused_at_once", _KEYS + "an_expired_key_is_refused")),
    Item("113", "another tenant's batch or file",
         refused("file_not_found", "batch_not_found", status=404),
         (_KEYS + "what_is_another_tenants_is_not_found",)),
    Item("114", "a user's key on admin routes and metrics",
         refused("admin_forbidden", "insufficient_scope", status=403, kind="permission_error"),
         (_KEYS + "a_users_key_does_not_administer", _KEYS + "a_key_opens_what_its_scope_says")),
    Item("115", "quota", _LIMITED,
         ("end_to_end/test_key_limits.py::test_requests_of_a_minute_are_limited_and_told",
          "end_to_end/test_key_limits.py::test_tokens_of_a_minute_end",
          "end_to_end/test_key_limits.py::test_the_tokens_of_a_month_end")),
    Item("117", "100 bad keys a minute", _LIMITED,
         (_KEYS + "many_bad_keys_are_slowed_down_and_good_ones_are_not",)),
    Item("118", "Origin null or foreign",
         refused("local_only", status=403, kind="permission_error"),
         ("end_to_end/test_batches.py::test_strangers_are_refused",
          "end_to_end/test_open_to_this_machine.py::test_no_path_is_open_to_a_page_of_elsewhere"),
         deviation="there is no front end yet: held where no key is asked for"),
)  # fmt: skip

_STREAM = (
    "gateway/test_endings.py::test_unknown_code_within_a_stream_ends_it_with_an_error_event",
    "gateway/test_sse.py::test_transcript_of_a_stream",
)


def _ours(code: str, status: int = 503) -> tuple[Answer, ...]:
    return refused(code, status=status, kind=SERVER)


STATES = (
    Item("queue full", "one request more", _ours("overloaded"),
         ("end_to_end/test_sdk_errors.py::"
          "test_full_queue_is_503_at_once_and_says_when_to_come_back",
          "gateway/test_queue_load.py::test_retry_after_is_the_queue_over_the_rate_and_jittered")),
    Item("draining", "a request", _ours("shutting_down"),
         ("gateway/test_endings.py::test_end_of_the_drain_s_time_is_an_error_of_ours",)),
    Item("backend down", "a request", _ours("backend_unavailable"),
         ("faults/test_redis_outage.py::test_redis_killed_and_restarted_loses_no_accepted_request",)
         ),
    Item("deadline", "a request beyond its time", _ours("timeout", 504),
         ("faults/test_time_limits.py::test_request_beyond_its_deadline_is_504_and_runs_no_longer",)
         ),
    Item("worker lost", "a request whose retry is spent", _ours("worker_lost"),
         ("gateway/test_dispatch.py::test_what_cannot_be_continued_exactly_ends_with_an_error",
          "faults/test_engine_hung.py::"
          "test_request_that_hangs_the_engine_ends_and_so_does_every_other")),
    Item("poisoned", "a request that kills its engine", _ours("request_poisoned", 500),
         ("faults/test_poison.py::"
          "test_poisoned_request_kills_two_workers_at_most_and_harms_no_other",
          "gateway/test_error_handlers.py::test_clients_are_told_not_to_repeat_what_would_do_harm")),
    Item("stream", "an error within a stream", (TAKEN,), _STREAM),
)  # fmt: skip
