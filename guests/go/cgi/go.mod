module cgi

go 1.24
