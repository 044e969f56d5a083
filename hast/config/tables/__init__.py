"""Values by recipe, size and preset; a package, so that only what reads them depends on them."""
