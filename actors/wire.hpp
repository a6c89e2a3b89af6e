// Between the engine's values and their messages. Floats become bit patterns; what comes off the wire is checked by
// engine::validate before use. Any thread.
#pragma once

#include "actors/messages.hpp"
#include "actors/service.hpp"
#include "engine/engine.hpp"

namespace troupe::actors {

sampling_wire to_wire(const engine::sampling_params& p);
engine::sampling_params from_wire(const sampling_wire& w);

token_wire to_wire(const engine::token_output& t);
engine::token_output from_wire(const token_wire& w);

// usage and reason; names and routes are filled in by whoever knows them.
generation_finished to_wire(const engine::finished_event& e);
generation_end from_wire(const generation_finished& w);
// The end of an attempt that failed, without usage.
generation_finished failed_with(std::uint64_t id, std::uint32_t try_number, const error& why);

// The engine's view of a request off the wire; its deadline counts from `now`.
engine::generation_request to_engine(const generate_request& r, engine::time_point now);
engine::generation_request to_engine(const prefill_request& r, engine::time_point now);

std::string_view to_string(role r);
std::string_view to_string(node_state s);
result<role> parse_role(std::string_view text);

}  // namespace troupe::actors
