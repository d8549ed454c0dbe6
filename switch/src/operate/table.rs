//! Tables that fit a terminal of 80 columns.

use comfy_table::{Table, presets::NOTHING};

/// A table with these heads and rows, without lines between them.
pub(super) fn of<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 0));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [["a", "bcd"], ["efgh", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(super::of(["x", "y"], rows), "x    y\na    bcd\nefgh\n");
    }
}
