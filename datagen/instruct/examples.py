"""Figures with conversations as we want them: what a model is shown before its own figure.

Eight over five domains, as LLaVA-Med had (arXiv:2306.00890, section 3.1); captions, mentions and
conversations are ours and describe no patient. Each answer says what can be seen, and nothing that
only the text knows. What does *not* live here: how they are put to a model (`prompts.py`).
"""

from dataclasses import dataclass

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, slots=True)
class Example:
    """A figure and three rounds about it."""

    domain: str
    label: str
    caption: str
    mentions: tuple[str, ...]
    turns: tuple[Turn, ...]


EXAMPLES = (
    Example(
        "chest_xray",
        "Figure 1",
        "Posteroanterior chest radiograph on admission showing a large right-sided pleural "
        "effusion with shift of the mediastinum to the left.",
        (
            "The chest radiograph (Figure 1) showed a large right pleural effusion, and 1.8 L of "
            "straw-coloured fluid were drained.",
        ),
        (
            (
                "What kind of image is this?",
                "It is a chest X-ray in frontal view. Both lungs, the outline of the heart and the "
                "ribs can be seen.",
            ),
            (
                "Do the two sides of the chest look alike?",
                "No. Most of the right side is uniformly white, while the left lung is dark, as "
                "air-filled lung normally is. Such a dense, even opacity suggests a large "
                "collection of fluid around the right lung.",
            ),
            (
                "Is the heart where one would expect it?",
                "It appears pushed towards the left. A large volume on one side of the chest can "
                "move the structures in the middle to the other side. What causes it has to be "
                "settled by the treating clinicians.",
            ),
        ),
    ),
    Example(
        "chest_xray",
        "Fig. 2",
        "Chest radiograph after placement of a dual-chamber pacemaker. The leads project over the "
        "right atrium and the right ventricle. No pneumothorax.",
        (),
        (
            (
                "Is there anything in this chest X-ray that is not part of the body?",
                "Yes. A small, very bright, box-like device lies in the upper chest, and two thin "
                "bright wires run from it towards the heart. This is how a cardiac pacemaker with "
                "two leads looks.",
            ),
            (
                "Where do the wires end?",
                "Both end within the outline of the heart: one tip lies higher, over the region of "
                "the right atrium, the other one lower, over the right ventricle.",
            ),
            (
                "Can you see air between the lung and the chest wall?",
                "No dark rim without lung markings is visible along the chest wall, so there is no "
                "sign of air outside the lung in this view. A radiologist should confirm that on "
                "the original image.",
            ),
        ),
    ),
    Example(
        "ct_scan",
        "Figure 3",
        "Contrast-enhanced axial CT of the abdomen demonstrating a 6.2 cm hypodense lesion in the "
        "right hepatic lobe with peripheral nodular enhancement.",
        (
            "CT revealed a hypodense mass of the right lobe of the liver (Figure 3).",
            "The enhancement pattern was considered typical of a cavernous haemangioma.",
        ),
        (
            (
                "Which part of the body does this scan show, and in which plane?",
                "It is a CT scan of the upper abdomen in an axial plane, that is, a horizontal "
                "slice. The liver fills much of one side of the image.",
            ),
            (
                "What stands out in the liver?",
                "There is a rounded area in the right lobe that is darker than the liver around "
                "it. Bright, nodular spots lie along its edge, while its centre stays dark.",
            ),
            (
                "What might a bright rim with a dark centre point to?",
                "It means that contrast material collects at the edge first. Patches of this kind "
                "at the rim are often seen in a haemangioma, a benign tumour of blood vessels, but "
                "other lesions can look alike, and further phases or a specialist's reading are "
                "needed.",
            ),
        ),
    ),
    Example(
        "gross",
        "Fig. 4",
        "Gross specimen of the resected colon segment, opened longitudinally, with a polypoid "
        "mass of 4 cm protruding into the lumen.",
        (),
        (
            (
                "What does this photograph show?",
                "It shows a piece of bowel after its removal, cut open lengthwise so that the "
                "inner lining faces the viewer.",
            ),
            (
                "How does the inner surface look?",
                "Most of it has soft folds of an even colour. In one place a lobulated mass rises "
                "above the surface and bulges into what was the channel of the bowel.",
            ),
            (
                "Can one tell from the photograph whether the mass is malignant?",
                "Not with certainty. Shape and surface give hints, but only an examination of the "
                "tissue under the microscope can tell.",
            ),
        ),
    ),
    Example(
        "gross",
        "Figure 5",
        "Cut surface of the nephrectomy specimen: a well-circumscribed, golden-yellow tumour with "
        "haemorrhagic foci in the upper pole.",
        (
            "Macroscopically, the tumour of the upper pole was golden-yellow and well "
            "circumscribed (Figure 5); it was staged as pT1b.",
        ),
        (
            (
                "Which organ is this?",
                "It looks like a kidney that has been cut in half. The bean-like outline can be "
                "made out, with the normal tissue at one end and a mass at the other.",
            ),
            (
                "Describe the mass.",
                "It is roundish, mostly yellow, and clearly set off from the brown-red tissue next "
                "to it. Dark red spots within it suggest bleeding.",
            ),
            (
                "Does it seem to grow into the tissue around it?",
                "On this cut surface its border is smooth and sharp, which speaks for a mass that "
                "pushes rather than infiltrates. Whether this holds everywhere has to be examined "
                "by a pathologist.",
            ),
        ),
    ),
    Example(
        "histology",
        "Figure 6",
        "Lymph node biopsy showing non-caseating epithelioid granulomas with multinucleated giant "
        "cells (H&E, original magnification x200).",
        ("The biopsy showed non-caseating granulomas (Figure 6), and prednisone was started.",),
        (
            (
                "How was this picture made?",
                "It is a photograph through a microscope of a thin slice of tissue. The pink and "
                "purple colours are those of a haematoxylin and eosin stain.",
            ),
            (
                "What pattern do the cells form?",
                "They lie in rounded, compact groups. The cells within have plenty of pale pink "
                "cytoplasm, and small dark lymphocytes surround them: such nodules are "
                "granulomas.",
            ),
            (
                "Are there unusually large cells?",
                "Yes, some very large cells with several nuclei are visible inside the groups. "
                "They are multinucleated giant cells. The centres of the nodules show no "
                "structureless, dead material. Several diseases can look like this, so the finding "
                "has to be read together with others by a specialist.",
            ),
        ),
    ),
    Example(
        "histology",
        "Fig 7",
        "Immunohistochemistry for Ki-67 in the tumour tissue. Scale bar = 50 um.",
        (),
        (
            (
                "What do the colours in this image mean?",
                "This is a tissue slice with an immunohistochemical stain: brown marks the cells "
                "in which the protein looked for is present, and blue shows the other nuclei.",
            ),
            (
                "Which part of the cells is stained brown?",
                "The brown colour lies over the nuclei. The space around them is pale.",
            ),
            (
                "What does a brown nucleus tell if the marker is one of cell division?",
                "It marks a cell that is about to divide. The more nuclei are brown, the more "
                "actively the tissue grows. Counting them properly, and drawing conclusions from "
                "it, is a pathologist's task.",
            ),
        ),
    ),
    Example(
        "mri",
        "Figure 8",
        "Sagittal T2-weighted MRI of the lumbar spine: disc herniation at L4/L5 compressing the "
        "thecal sac.",
        ("MRI confirmed a herniated disc at L4/L5 (Figure 8) in line with the patient's pain.",),
        (
            (
                "What can be seen in this image?",
                "It is an MRI of the lower spine from the side. The vertebrae lie one above the "
                "other with the discs between them, and behind them runs the spinal canal.",
            ),
            (
                "Why is the band behind the vertebrae bright?",
                "In this kind of MRI image fluid appears bright, as in a T2-weighted sequence. The "
                "band is the fluid around the nerves in the spinal canal.",
            ),
            (
                "Is the bright band the same width everywhere?",
                "No. At one of the lower discs, dark disc material bulges backwards and narrows "
                "the band. This is how a herniated disc looks. Whether it explains complaints is "
                "for a physician to judge.",
            ),
        ),
    ),
)
