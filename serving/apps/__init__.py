"""Each application on about one page: its stages in order, and how a query becomes an answer."""
