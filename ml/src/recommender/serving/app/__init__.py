"""Serve a promoted model over HTTP; needs numpy and the web framework, and imports nothing above serving."""
