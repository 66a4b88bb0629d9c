// What the pages need beside htmx. All can be read without it.
