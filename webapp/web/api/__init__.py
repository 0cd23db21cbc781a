"""The JSON interface, ``/api/v1``: a versioned contract over the same controller."""
