//! How the screens look: text, cursor and styles.

use super::*;

/// `screen!(world, keys, columns, rows)`: a snapshot after these keys.
macro_rules! screen {
    ($name:literal, $world:expr, $keys:expr, $columns:expr, $rows:expr) => {{
        let mut driven = Driven::open($world, $columns, $rows);
        driven.keys($keys);
        let screen = driven.screen();
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, screen);
        });
    }};
}

#[test]
fn the_team_at_132() {
    screen!("team-132x24", Store::team(), "ctrl-g 'deploys' enter esc { k enter", 132, 24);
}
