-- Pushes that people had cancelled at their provider.

-- name: asked_before
SELECT DISTINCT a.target FROM {rows :keys (key text)} x
    JOIN operator_actions a ON a.target = x.key AND a.action = 'push_cancel'
