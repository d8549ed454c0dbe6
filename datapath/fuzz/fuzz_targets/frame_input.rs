//! See `ipop_datapath::fuzzing::frame_input`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipop_datapath::fuzzing::frame_input(bytes));
