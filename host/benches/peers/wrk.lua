-- For wrk: posts so many bytes, if any, and prints what it measured as one line of JSON.

function init(arguments)
    local bytes = tonumber(arguments[1])
    if bytes > 0 then
        wrk.method = "POST"
        wrk.body = string.rep("x", bytes)
        wrk.headers["Content-Type"] = "application/octet-stream"
    end
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests":%d,"micros":%d,"p50":%d,"p99":%d,"p999":%d,"sockets":%d,"statuses":%d,"timeouts":%d}',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
        errors.connect + errors.read + errors.write, errors.status, errors.timeout))
end
