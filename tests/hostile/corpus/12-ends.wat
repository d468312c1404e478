;; what: a trap before anything is called
;; ends: refused does not start: panic: wasm trap
(func $go unreachable) (start $go)

;; what: a trap
;; verb: every
;; ends: fails panic saying unreachable

;; what: a division by zero in observe
;; ends: fails panic saying divide by zero
(func $mine (param i32) (result i32) (i32.div_u (i32.const 1) (i32.const 0)))
