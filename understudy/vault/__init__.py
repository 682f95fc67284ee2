"""A site's durable, content-addressed store: chunks, packs, index, manifests, sets."""
