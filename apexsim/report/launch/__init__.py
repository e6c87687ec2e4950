"""From a plan to what is typed: launch commands and manifests, from a table of each engine's flags."""
