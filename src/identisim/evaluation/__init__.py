"""How well metrics tell identities apart: predict similarities once, then measure them."""
