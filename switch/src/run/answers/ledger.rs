//! The drop ledger as the API has it.
//!
//! Each worker says in its own round what became of its frames ([`ipop_datapath::counters::ledger`] defines that), so what does not add up is a fault of
//! the program and not of the moment.

use crate::api::types::Ledger;

impl From<&ipop_datapath::counters::ledger::Ledger> for Ledger {
    fn from(ledger: &ipop_datapath::counters::ledger::Ledger) -> Self {
        // Workers answer one after the other: a frame may have been taken in by the one and not be given away yet by the other.
        let in_mail = ledger.mailed_out.saturating_sub(ledger.mailed_in);
        Self {
            received: ledger.received,
            copies: ledger.copies,
            sent: ledger.sent,
            dropped: ledger.dropped,
            waiting: ledger.waiting + in_mail,
            difference: ledger.difference(),
        }
    }
}
