module legate

go 1.26.8
