"""One module a layout, each with its `LAYOUT`; `meminspect.checkpoint.registry` lists them."""
