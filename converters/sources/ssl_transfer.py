"""Files as the scripts of linusericsson/ssl-transfer prepare them."""

from converters.sources import Form, Origin

ORIGIN = Origin(
    title="ssl-transfer, Ericsson et al. 2021: linusericsson/ssl-transfer",
    forms=(Form(),),
    note="its SimCLR files want images in 0..1: --mean 0 0 0 --std 1 1 1",
)
