"""The recorder inside other people's trainers: one module each, imported only when asked for.

====================================  ====================================================
``sift_graph.integrations.``          what it has
====================================  ====================================================
``lightning``, ``pytorch_lightning``  ``MaskRecorderCallback``, for either import name
``hf``                                ``MaskRecorderCallback`` of transformers' Trainer
``accelerate``                        ``MaskTracker``; masks by ``recorder.attach``
``composer``, ``fastai``              ``MaskRecorderCallback``
``ignite``                            ``MaskHandler``
``keras``                             ``MaskRecorderCallback``, with the torch backend
====================================  ====================================================

Each is thin: it says when training begins at which step, which model and optimizer, and when it ends; the optimizer's
own step hooks do the rest, so that a snapshot belongs to a real optimizer step, whatever the trainer accumulates.
"""
