"""Names by which verl finds our engines (`actor_rollout_ref.model.model_type`), and the module to load."""

EXTERNAL_LIB = "trainer.engine.registered"
"""Module that registers them."""

LANGUAGE_MODEL = "language_model"
"""verl's own name."""

WITHOUT_OLD_ENTROPY = "language_model_without_old_entropy"
"""The same, measuring no entropy in the pass before the update."""
