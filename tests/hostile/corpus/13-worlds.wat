;; what: no WebAssembly
;; as: component
;; ends: refused not a valid
not wasm

;; what: nothing
;; as: component
;; ends: refused not a valid

;; what: half of a plugin
;; cut: yes
;; ends: refused not a valid

;; what: a core module
;; as: component
;; ends: refused not a valid
(module)

;; what: an empty component
;; as: component
;; ends: refused exports no holdfast:target/target
(component)

;; what: a newer world
;; wit: @0.1.0 => @0.2.0
;; ends: refused was built for holdfast:target 0.2.0

;; what: another shape of a record
;; wit: fence: u64, => fence: u32,
;; ends: refused does not fit the plugin world

;; what: a missing export
;; wit: export target; =>
;; ends: refused exports no holdfast:target/target

;; what: a missing function
;; wit: retire: func(ctx: context, subject: generation, last: bool) -> result<progress, fault>; =>
;; ends: refused does not fit the plugin world

;; what: sockets
;; import: wasi:sockets/tcp@0.2.0
;; ends: refused imports wasi:sockets/tcp@0.2.0, which no plugin gets

;; what: HTTP
;; import: wasi:http/outgoing-handler@0.2.0
;; ends: refused imports wasi:http/outgoing-handler@0.2.0

;; what: an interface of its own
;; import: evil:thing/io@1.0.0
;; ends: refused imports evil:thing/io@1.0.0

;; what: a WASI that is not there
;; import: wasi:cli/evil@0.2.0
;; ends: refused does not fit the plugin world
