"""What may be asked about an image: the topics of both worlds and how they are worded.

Questions speak of "lesions" and "spots" however many there are, so that a question does not tell
what another asks. What does *not* live here: choosing questions (`questions.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datagen.phantoms.facts import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    LOCATIONS,
    MODALITIES,
    ORGANS,
    SHAPES,
    SIDES,
    SIZES,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """Questions about one attribute; a short answer is the attribute's value itself.

    Args:
        name: the `question_type`.
        values: what the attribute may be.
        open_forms: open questions; the first is the one of VQA.
        closed_forms: closed ones with `{phrase}` for the value that is asked about.
        statement: the fact as a clause, with `{phrase}`, or `{they}` ("It is", "They are") and
            `{there}` ("There are two lesions").
        phrases: values in a sentence, where they are not themselves.
        wrong_weights: how often a value is drawn where a wrong one is asked about; 1 if not named.
    """

    name: str
    attribute: str
    values: tuple[str, ...]
    open_forms: tuple[str, ...]
    closed_forms: tuple[str, ...]
    statement: str
    phrases: Mapping[str, str] = field(default_factory=dict[str, str])
    wrong_weights: Mapping[str, float] = field(default_factory=dict[str, float])

    def phrase(self, value: str) -> str:
        """Return a value as it stands in a sentence."""
        return self.phrases.get(value, value)


def spot_topics(noun: str) -> tuple[Topic, ...]:
    """Return the topics about spots, called by their plural."""
    return (
        Topic(
            "present",
            "present",
            ("yes", "no"),
            (),
            (f"Are there any {noun}?", f"Does the image show any {noun}?"),
            "{there}",
        ),
        Topic(
            "count",
            "count",
            COUNTS,
            (f"How many {noun} are there?", f"What is the number of {noun}?"),
            (f"Is the number of {noun} {{phrase}}?", f"Are the {noun} {{phrase}} in number?"),
            "{there}",
        ),
        Topic(
            "side",
            "side",
            SIDES,
            (f"On which side are the {noun}?", f"Which side shows the {noun}?"),
            (f"Are the {noun} {{phrase}}?", f"Do the {noun} lie {{phrase}}?"),
            "{they} {phrase}",
            {"left": "on the left side", "right": "on the right side", "both": "on both sides"},
            # Half as often as the others, as spots are on both sides less often: whether yes is the
            # answer cannot be guessed from the question.
            {"both": 0.5},
        ),
        Topic(
            "location",
            "location",
            LOCATIONS,
            (f"In which part are the {noun}?", f"Which part shows the {noun}?"),
            (f"Are the {noun} {{phrase}}?", f"Do the {noun} lie {{phrase}}?"),
            "{they} {phrase}",
            {"upper": "in the upper part", "lower": "in the lower part"},
        ),
        Topic(
            "size",
            "size",
            SIZES,
            (f"What size are the {noun}?", f"How large are the {noun}?"),
            (f"Are the {noun} {{phrase}}?", f"Is the size of the {noun} {{phrase}}?"),
            "{they} {phrase}",
        ),
    )


SCAN_TOPICS = (
    Topic(
        "modality",
        "modality",
        MODALITIES,
        ("Which modality is this?", "What kind of image is this?"),
        ("Is the modality {phrase}?", "Is the kind of this image {phrase}?"),
        "The modality is {phrase}",
    ),
    Topic(
        "organ",
        "organ",
        tuple(dict.fromkeys(organ for organs in ORGANS.values() for organ in organs)),
        ("Which organ is shown?", "What does the image show?"),
        (),
        "The image shows the {phrase}",
    ),
    *spot_topics("lesions"),
)

PICTURE_TOPICS = (
    Topic(
        "background",
        "background",
        BACKGROUNDS,
        ("How is the background?",),
        ("Is the background {phrase}?",),
        "The background is {phrase}",
    ),
    Topic(
        "background_colour",
        "background_colour",
        COLOURS,
        ("Which colour is the background?",),
        (),
        "The background is {phrase}",
    ),
    Topic(
        "shape",
        "shape",
        SHAPES,
        ("Which shape is shown?",),
        ("Is the shape {phrase}?",),
        "The image shows {phrase}",
        {shape: f"an {shape}" if shape == "oval" else f"a {shape}" for shape in SHAPES},
    ),
    Topic(
        "shape_colour",
        "shape_colour",
        COLOURS,
        ("Which colour is the shape?",),
        (),
        "The shape is {phrase}",
    ),
    Topic(
        "spot_colour",
        "spot_colour",
        COLOURS,
        ("Which colour are the spots?",),
        (),
        "{they} {phrase}",
    ),
    *spot_topics("spots"),
)
