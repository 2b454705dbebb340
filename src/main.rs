//! The program `holdall`.

fn main() {}
