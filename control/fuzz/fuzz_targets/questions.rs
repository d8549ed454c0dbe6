//! See `ipop_control::fuzzing::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipop_control::fuzzing::questions(bytes));
