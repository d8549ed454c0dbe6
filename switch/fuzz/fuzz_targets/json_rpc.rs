//! See `ipop_switch::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipop_switch::fuzzing::json_rpc(bytes));
