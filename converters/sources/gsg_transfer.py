"""This project's own files: of pretraining, and of every target of the converter."""

from converters.keys import DETECTRON2
from converters.sources import ANY_STEM, Form, Origin

ORIGIN = Origin(
    title="this project",
    forms=(
        Form(architectures=ANY_STEM),
        Form("backbone.bottom_up.", ("model",), rules=DETECTRON2),
        Form("backbone.", ("state_dict",)),
    ),
    note="the facts about it come from the file, or from the certificate beside it",
)
