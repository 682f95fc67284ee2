"""The plan, the epoch, the fence, the journal and the engine that runs them."""
