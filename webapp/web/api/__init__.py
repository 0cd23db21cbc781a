"""The JSON interface, ``/api/v1``: a versioned contract of its own over the same controller."""
