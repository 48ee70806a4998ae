"""The rule-based finder of root verbs and nouns, sentence by sentence."""

import time

import pytest

from datagen.stats.lexicon import singular, verb_forms
from datagen.stats.verb_noun import root_of

QUESTIONS = [
    ("What organ is shown?", "show", "organ"),
    ("Which organ is shown?", "show", "organ"),
    ("Can you describe the lesion in the left lung?", "describe", "lesion"),
    ("Describe the image in detail.", "describe", "image"),
    ("Is there any evidence of pneumothorax?", "be", "evidence"),
    ("What does the image show?", "show", "image"),
    ("What is shown in the image?", "show", "image"),
    ("What can be seen here?", "see", None),
    ("Give a short description of the image.", "give", "description"),
    ("Describe the following image concisely.", "describe", "image"),
    ("Please provide a brief description of the given image.", "provide", "description"),
    ("How many lesions are there?", "be", "lesion"),
    ("On which side are the lesions?", "be", "lesion"),
    ("In which part are the lesions?", "be", "lesion"),
    ("Which side shows the lesions?", "show", "lesion"),
    ("What size are the lesions?", "be", "size"),
    ("How large are the lesions?", "be", "lesion"),
    ("Do the lesions lie in the upper part?", "lie", "lesion"),
    ("Are the lesions on both sides?", "be", "lesion"),
    ("Does the image show any lesions?", "show", "lesion"),
    ("What type of image is this?", "be", "type"),
    ("Which modality is this?", "be", "modality"),
    ("Is the modality MRI?", "be", "mri"),  # a limit: two noun phrases side by side
    ("Is the lesion oval?", "be", "lesion"),
    ("What is the location of the mass?", "be", "location"),
    ("What are the findings?", "be", "finding"),
    ("What does the arrow indicate?", "indicate", "arrow"),
    ("What is the arrow pointing to?", "point", "arrow"),
    ("Where is the lesion located?", "locate", "lesion"),
    ("How is the tissue stained?", "stain", "tissue"),
    ("What could be the cause of the lesion?", "be", "cause"),
    ("Why was the CT performed?", "perform", "ct"),
    ("Could you please tell me what organ is shown?", "tell", "organ"),
    ("Tell me about the lesion.", "tell", "lesion"),
    ("Based on the image, what abnormality is seen?", "see", "abnormality"),
    ("In this image, which vertebrae are affected?", "affect", "vertebra"),
    ("Has the tumor spread to the liver?", "spread", "tumor"),
    ("Is the enlarged heart visible?", "be", "heart"),
    ("What do the white arrows point at?", "point", "arrow"),
    ("Can the image be used to diagnose cancer?", "use", "image"),
    ("List the abnormalities.", "list", "abnormality"),
    ("How would you characterize the mass?", "characterize", "mass"),
    ("What's the name of the organ?", "be", "name"),
    ("The CT was done on Monday. What is the diagnosis?", "be", "diagnosis"),
    ("Identify the structures, and name them.", "identify", "structure"),
    ("Are there any metastases?", "be", "metastasis"),
]
ANSWERS = [
    ("The image shows a large mass in the right lung.", "show", "mass"),
    ("There are two small lesions on the left side, in the upper part.", "be", "lesion"),
    ("There is no evidence of fracture.", "be", "evidence"),
    ("Yes, there is a lesion.", "be", "lesion"),
    ("No, the heart appears normal.", "appear", "heart"),
    ("The lesions are small.", "be", "lesion"),
    ("The modality is ultrasound.", "be", "ultrasound"),
    ("The lesion is located in the left lobe.", "locate", "lesion"),
    ("The lesion located in the left lobe is a cyst.", "be", "cyst"),
    ("CT revealed a well-defined, hypodense mass.", "reveal", "mass"),
    ("The study demonstrates bilateral infiltrates.", "demonstrate", "infiltrate"),
    ("The findings suggest a pulmonary embolism.", "suggest", "embolism"),
    ("A small nodule can be seen in the upper lobe.", "see", "nodule"),
    ("It is not possible to determine the cause.", "be", None),
    ("The arrow does not indicate the tumour.", "indicate", "tumour"),
    ("The patient has a history of asthma.", "have", "history"),
    ("The marked increase suggests an infection.", "suggest", "infection"),
    ("The scan has been performed with contrast.", "perform", "scan"),
    ("Chest X-ray of a man showing bilateral opacities.", "show", "opacity"),
    ("In this CT, the arrows indicate enlarged lymph nodes.", "indicate", "node"),
    ("The results of the test are unclear.", "be", "result"),
    ("It is in the upper part.", "be", "part"),
    ("This suggests a benign process.", "suggest", "process"),
    ("These results are normal.", "be", "result"),
    ("It shows the pelvis.", "show", "pelvis"),
]
NOTHING = ["Yes.", "no", "", "CT of the chest", "left lung", "...", "3", "\u00e9\u00e8", "?"]


@pytest.mark.parametrize(("text", "verb", "noun"), [*QUESTIONS, *ANSWERS])
def test_a_sentence_has_this_root(text: str, verb: str, noun: str | None) -> None:
    assert root_of(text) == (verb, noun)


@pytest.mark.parametrize("text", NOTHING)
def test_without_a_verb_there_is_no_root(text: str) -> None:
    assert root_of(text) is None


def test_a_question_behind_a_caption_is_what_counts() -> None:
    assert root_of("MRI of the brain. There is one lesion.\nHow many are there?") == ("be", None)


def test_forms_lead_to_their_verb() -> None:
    forms = verb_forms()
    for form, lemma in (
        ("seen", "see"), ("lying", "lie"), ("identifies", "identify"), ("occurred", "occur"),
        ("shows", "show"), ("making", "make"), ("discusses", "discuss"), ("studied", "study"),
    ):  # fmt: skip
        assert forms[form][0] == lemma


def test_singulars() -> None:
    for plural, one in (
        ("opacities", "opacity"), ("masses", "mass"), ("diagnoses", "diagnosis"),
        ("lungs", "lung"), ("pelvis", "pelvis"), ("abscess", "abscess"), ("biopsies", "biopsy"),
        ("boxes", "box"), ("x-rays", "x-ray"), ("thrombus", "thrombus"),
    ):  # fmt: skip
        assert singular(plural) == one


def test_long_and_strange_texts_take_no_time() -> None:
    started = time.monotonic()
    for text in ("a " * 50_000, "is the " * 20_000, "," * 100_000, "x." * 50_000, "?" * 100_000):
        root_of(text)
    assert time.monotonic() - started < 5
