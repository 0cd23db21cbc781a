"""Frozen views: what a template needs, already chosen and put into words. A view never waits and never asks twice.

Ages are not in them: a view holds the moment, and the template says how long ago that was, so that a page on which nothing happens
stays the same value from poll to poll.
"""
