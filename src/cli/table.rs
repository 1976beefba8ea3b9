//! Tables of text, as wide as their content.

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows below headings.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    below: Vec<String>,
}

impl Table {
    pub(super) fn new(columns: Vec<(&'static str, Align)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row { cells, below: Vec::new() });
    }

    /// Adds a line of its own below the last row and what is below that already.
    pub(super) fn below(&mut self, text: &str) {
        if let Some(row) = self.rows.last_mut() {
            row.below.push(format!("    {text}"));
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let rows = || std::iter::once(&headings).chain(self.rows.iter().map(|row| &row.cells));
        let width = |column: usize| rows().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let none = Vec::new();
        let belows = std::iter::once(&none).chain(self.rows.iter().map(|row| &row.below));
        for (cells, below) in rows().zip(belows) {
            let padded = cells.iter().zip(&widths).zip(&self.columns).map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
            below.iter().try_for_each(|below| writeln!(f, "{below}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(vec![("NAME", Align::Left), ("SIZE", Align::Right), ("MORE", Align::Left)]);
        table.row(vec!["a".into(), "12".into(), String::new()]);
        table.row(vec!["ünicode".into(), "1,234".into(), "yes".into()]);
        table.below("broken");
        table.below("and late");
        insta::assert_snapshot!(table, @r#"
        NAME      SIZE  MORE
        a           12
        ünicode  1,234  yes
            broken
            and late
        "#);
    }
}
