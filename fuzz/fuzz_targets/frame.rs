#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| holdall::testkit::fuzz::run("frame", input));
