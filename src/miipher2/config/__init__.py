"""Configuration: YAML in, checked dataclasses out. Imports no torch, since every DVC command imports it.

fields          field declarations that carry their own range, and the base class that checks them
schema          one dataclass per stage; STAGES, the registry of stages
schema_data     corpora, degradations, examples, the dataloader
script          entry point of stages/: a user's mistake in one line
command         the command that started a run, to resume with the same settings
load            a composed Hydra configuration to the stage's dataclass
resume_routing  checkpoint.resume_from to the stage it belongs to; Hydra's resolvers
paths           where the repository is; which paths may be written, replaced or removed
params          configs/ to params.yaml, and whether that is stale
"""
