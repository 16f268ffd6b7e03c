"""Files as the scripts of linusericsson/ssl-transfer prepare them."""

from converters.sources import Form, Origin

ORIGIN = Origin(
    title="ssl-transfer, Ericsson et al. 2021: linusericsson/ssl-transfer",
    forms=(Form(pixels=None),),
    recognised=False,
    note="its SimCLR files want --mean 0 0 0 --std 1 1 1, the others ImageNet's: name them",
)
