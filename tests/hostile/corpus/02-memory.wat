;; what: a memory larger than the cap
;; ends: refused does not start: memory
(memory 2000)

;; what: memories that are too large together
;; ends: refused does not start: memory
;; times: 5 (memory 300)

;; what: too many memories
;; ends: refused does not start: memory: resource limit exceeded
;; times: 20 (memory 1)

;; what: a table larger than the cap
;; ends: refused does not start: memory
(table 200000 funcref)

;; what: tables that are too large together
;; ends: refused does not start: memory
;; times: 4 (table 40000 funcref)

;; what: too many tables
;; ends: refused does not start: memory: resource limit exceeded
;; times: 40 (table 1 funcref)

;; what: a 64-bit memory
;; as: component
;; ends: refused not a valid
(component (core module (memory i64 1)))

;; what: growth without end before anything is called
;; ends: refused does not start: memory
(func $go (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable) (start $go)

;; what: growth of memory without end in observe
;; ends: fails memory
(func $mine (param i32) (result i32)
  (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable)

;; what: growth of a table without end in observe
;; ends: fails memory
(table $grows 1 funcref)
(func $mine (param i32) (result i32)
  (loop (br_if 0 (i32.ne (table.grow $grows (ref.null func) (i32.const 500)) (i32.const -1)))) unreachable)
