//! `drops`: why frames were dropped, what that means, and what to do.

use std::{thread, time::Duration};

use super::Screen;
use crate::{
    api::{
        Client,
        types::{Drop, Drops, Ledger},
    },
    exit::Failure,
};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

pub(super) fn show(client: &Client, screen: Screen) -> Result<(), Failure> {
    let drops: Drops = client.get("/v1/drops")?;
    screen.show(&drops, || text(&drops))
}

/// Goes on with what is new, until it is ended.
pub(super) fn watch(client: &Client, screen: Screen) -> Result<(), Failure> {
    let mut before: Drops = client.get("/v1/drops")?;
    screen.show(&before, || text(&before))?;
    loop {
        thread::sleep(EVERY);
        let now: Drops = client.get("/v1/drops")?;
        let news = Drops { drops: since(&before, &now), ledger: now.ledger };
        if !news.drops.is_empty() {
            screen.show(&news, || text(&news))?;
        }
        before = now;
    }
}

/// What was dropped since an earlier look.
fn since(before: &Drops, now: &Drops) -> Vec<Drop> {
    let more = |drop: &Drop| {
        let was = before.drops.iter().find(|other| other.reason == drop.reason);
        let was = was.map_or(0, |was| was.frames);
        (drop.frames > was).then(|| Drop { frames: drop.frames - was, ..drop.clone() })
    };
    now.drops.iter().filter_map(more).collect()
}

fn text(Drops { drops, ledger }: &Drops) -> String {
    let mut text = String::new();
    if drops.is_empty() {
        text += "no frame was dropped\n";
    }
    for Drop { reason, frames, meaning, cure, ports } in drops {
        let places: Vec<String> =
            ports.iter().map(|(port, frames)| format!("{port} {frames}")).collect();
        text +=
            &format!("{frames} {reason} ({})\n  {meaning}\n  cure: {cure}\n", places.join(", "));
    }
    let Ledger { received, copies, sent, dropped, waiting, difference } = ledger;
    text += &format!(
        "frames: {received} in, {copies} copies; {sent} out, {dropped} dropped, {waiting} waiting; {difference} unaccounted for\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_what_came_since() {
        let drop = |reason: &str, frames| Drop {
            reason: reason.into(),
            frames,
            meaning: "m".into(),
            cure: "c".into(),
            ports: [("ipop0".to_owned(), frames)].into(),
        };
        let ledger =
            Ledger { received: 9, copies: 1, sent: 4, dropped: 5, waiting: 1, difference: 0 };
        let before = Drops { ledger, drops: vec![drop("storm", 5), drop("runt", 1)] };
        let now =
            Drops { ledger, drops: vec![drop("storm", 8), drop("runt", 1), drop("no_port", 2)] };
        let news = since(&before, &now);
        let counts: Vec<_> = news.iter().map(|drop| (&*drop.reason, drop.frames)).collect();
        assert_eq!(counts, [("storm", 3), ("no_port", 2)]);
        assert_eq!(
            text(&Drops { ledger, drops: vec![drop("storm", 5)] }),
            "5 storm (ipop0 5)\n  m\n  cure: c\nframes: 9 in, 1 copies; 4 out, 5 dropped, 1 waiting; 0 unaccounted for\n"
        );
    }
}
