"""The public sets: fetched, laid out as class folders with a manifest, their terms kept beside them."""
