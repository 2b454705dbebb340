//! Holds the code to `format-spec/`: the vectors are walked, the laws are tried on arbitrary values, the fuzz bodies are replayed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![expect(clippy::too_many_lines, reason = "tables of cases")]

mod fuzz;
mod generate;
mod independent;
mod laws;
mod packs;
mod reader;
mod vectors;
