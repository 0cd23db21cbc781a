"""The web layer: pages, fragments, actions and the JSON interface over one controller."""
