//! See `ipop_datapath::fuzzing::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipop_datapath::fuzzing::signals(bytes));
