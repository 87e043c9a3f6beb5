"""Real boards' images on models of their registers, for what needs no analog part."""
