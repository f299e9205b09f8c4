"""A dream as a web page: static files, which run in the browser alone."""
