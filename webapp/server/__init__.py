"""The server of the page: gunicorn, with a worker that slow clients cannot occupy."""
