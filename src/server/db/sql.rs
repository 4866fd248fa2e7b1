//! Queries as text that a connection prepares once. `diesel::sql_query` prepares its text for every call: one more round
//! trip, and planning that costs more than the query where many tables are joined.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Untyped};

/// A query with its arguments; load it as any other.
pub struct Sql<B> {
    text: Cow<'static, str>,
    arguments: B,
}

/// Begins a query; `$1`, `$2` … stand for the arguments, in the order in which they are bound.
pub fn sql(text: impl Into<Cow<'static, str>>) -> Sql<()> {
    Sql { text: text.into(), arguments: () }
}

impl<B> Sql<B> {
    /// The next argument, as a value of the SQL type `T`.
    pub fn bind<T, V>(self, value: V) -> Sql<(B, Argument<T, V>)> {
        Sql { text: self.text, arguments: (self.arguments, Argument { value, of: PhantomData }) }
    }
}

/// A value with the SQL type that it is sent as.
pub struct Argument<T, V> {
    value: V,
    of: PhantomData<fn() -> T>,
}

/// Arguments in their order.
pub trait Arguments {
    /// # Errors
    /// When a value cannot be sent.
    fn walk<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()>;
}

impl Arguments for () {
    fn walk<'b>(&'b self, _: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        Ok(())
    }
}

impl<B: Arguments, T, V: ToSql<T, Pg>> Arguments for (B, Argument<T, V>)
where
    Pg: HasSqlType<T>,
{
    fn walk<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk(out.reborrow())?;
        out.push_bind_param(&self.1.value)
    }
}

impl<B: Arguments> QueryFragment<Pg> for Sql<B> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(&self.text);
        // The text has its placeholders already. Binding writes them once more, where they say nothing.
        out.push_sql("\n-- ");
        self.arguments.walk(out)
    }
}

impl<B> QueryId for Sql<B> {
    type QueryId = ();
    // The text is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<B> Query for Sql<B> {
    type SqlType = Untyped;
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::sql_types::{BigInt, Text};

    #[test]
    fn arguments_keep_their_order_and_the_text_its_placeholders() {
        let query = sql("SELECT $2, $1, $2").bind::<BigInt, _>(7i64).bind::<Text, _>("x");
        let shown = diesel::debug_query::<Pg, _>(&query).to_string();
        assert_eq!(shown, "SELECT $2, $1, $2\n-- $1$2 -- binds: [7, \"x\"]");
    }
}
