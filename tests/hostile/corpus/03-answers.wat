;; what: a string that claims to be 1 GiB long
;; ends: fails panic saying out of bounds of memory
(func $mine (param i32) (result i32)
  (i32.store (i32.const 56) (i32.const 200)) (i32.store (i32.const 60) (i32.const 1))
  (i32.store (i32.const 200) (i32.const 0)) (i32.store (i32.const 204) (i32.const 0x40000000))
  i32.const 8)

;; what: a list of 16,000 strings that are one and the same megabyte
;; ends: fails output-size
(func $mine (param i32) (result i32) (local $at i32)
  (drop (memory.grow (i32.const 30)))
  (memory.fill (i32.const 1000000) (i32.const 120) (i32.const 500000))
  (i32.store (i32.const 56) (i32.const 1024)) (i32.store (i32.const 60) (i32.const 16000))
  (local.set $at (i32.const 1024))
  (loop
    (i32.store (local.get $at) (i32.const 1000000))
    (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 500000))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if 0 (i32.lt_u (local.get $at) (i32.const 129024))))
  i32.const 8)

;; what: a list of ten million empty strings that its memory does not hold
;; ends: fails panic saying out of bounds of memory
(func $mine (param i32) (result i32)
  (i32.store (i32.const 56) (i32.const 1024)) (i32.store (i32.const 60) (i32.const 10000000))
  i32.const 8)

;; what: a list of five million empty strings that its memory does hold
;; ends: fails output-size
(func $mine (param i32) (result i32)
  (drop (memory.grow (i32.const 700)))
  (i32.store (i32.const 56) (i32.const 1024)) (i32.store (i32.const 60) (i32.const 5000000))
  i32.const 8)

;; what: a list of generations that claims every element there can be
;; ends: fails panic saying out of bounds of memory
(func $mine (param i32) (result i32)
  (i32.store (i32.const 40) (i32.const 16)) (i32.store (i32.const 44) (i32.const 0x7fffff))
  i32.const 8)
