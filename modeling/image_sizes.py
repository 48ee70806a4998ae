"""Sizes that images are brought to, as arithmetic: for those who know only a header. No PIL."""


def kept_size(width: int, height: int, *, side_px: int, patch_px: int) -> tuple[int, int]:
    """Return width and height after `image_processing.keep_aspect`."""
    short, long = sorted((width, height))
    if long <= 2 * short:
        new_short, new_long = side_px, side_px * long // short
    else:
        new_short, new_long = 2 * side_px * short // long, 2 * side_px
    new_short, new_long = (max(px // patch_px, 1) * patch_px for px in (new_short, new_long))
    return (new_long, new_short) if width > height else (new_short, new_long)
