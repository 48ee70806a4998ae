"""Captions: what an image shows, in two sentences; and what asks for them."""

from datagen.phantoms.facts import Facts, Scan, Spots

DESCRIBE = (
    "What does this image show?",
    "Describe this image.",
    "Give a short description of the image.",
    "What can be seen here?",
)


def caption(facts: Facts) -> str:
    """Return a caption that states every attribute of an image."""
    if isinstance(facts, Scan):
        kind = facts.modality[0].upper() + facts.modality[1:]
        return f"{kind} of the {facts.organ}. {say_where(facts.spots, 'lesion')}"
    ground = f"{facts.background} {facts.background_colour} background"
    shown = (
        f"A {facts.shape_colour} {facts.shape} on a {ground}." if facts.shape else f"A {ground}."
    )
    spot = f"{facts.spot_colour} spot" if facts.spot_colour else "spot"
    return f"{shown} {say_where(facts.spots, spot)}"


def say_where(spots: Spots, noun: str) -> str:
    """Return a sentence with all that is true of spots, called by their singular."""
    if spots.side is None:
        return f"{say_count(spots.count, noun)}."
    side = "both sides" if spots.side == "both" else f"the {spots.side} side"
    counted = say_count(spots.count, f"{spots.size} {noun}")
    return f"{counted} on {side}, in the {spots.location} part."


def say_count(count: str, noun: str) -> str:
    """Return a clause such as "There are two spots"; none at all are zero: "no" is an answer."""
    return f"There is one {noun}" if count == "one" else f"There are {count} {noun}s"
