;; what: recursion before anything is called
;; ends: refused does not start: stack
(func $go call $go) (start $go)

;; what: recursion in observe
;; ends: fails stack
(func $deep (param i64) (result i64) (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
(func $mine (param i32) (result i32) (drop (call $deep (i64.const 0))) i32.const 8)

;; what: recursion through calls of the host
;; ends: fails stack or host-calls
(func $deep (result i64) (i64.add (call $now) (call $deep)))
(func $mine (param i32) (result i32) (drop (call $deep)) i32.const 8)

;; what: a call of the host while its arguments are lowered into it
;; ends: fails panic saying cannot leave component instance
(func $allocate (param i32 i32 i32 i32) (result i32) (drop (call $now)) i32.const 65536)
(func $mine (param i32) (result i32) unreachable)
