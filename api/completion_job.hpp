// One request of /v1/completions or /v1/chat/completions under way: its generations, one a prompt and choice, and the
// answer made of them, streamed or whole.
//
//   submitted ──all admitted──► streaming ──all choices closed──► done
//       │ first refusal: a plain error with its status      │ error frame, [DONE]
//       └──────────────► done ◄── client left, time limit ──┘
//
// The service's threads only append events; everything else runs on the exchange's strand. The sinks keep the job
// alive until each generation has ended.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "actors/service.hpp"
#include "api/choice_output.hpp"
#include "api/frontend_metrics.hpp"
#include "api/http_types.hpp"
#include "api/openai_objects.hpp"
#include "api/served_model.hpp"
#include "api/tool_call_parser.hpp"

namespace troupe::api {

struct answer_plan {
  answer_head head;
  common_request common;
  bool echo = false;
  std::optional<call_reading> calls;  // of tools, where there are any
  struct prompt {
    std::vector<token_id> tokens;
    std::string text;  // for echo
    std::uint32_t max_tokens = 0;
  };
  std::vector<prompt> prompts;
  std::string request_id;  // for the log
  std::string tenant;
  std::chrono::steady_clock::time_point received{};
  std::chrono::milliseconds ping{15'000};
  std::chrono::milliseconds timeout{600'000};
};

class completion_job : public std::enable_shared_from_this<completion_job> {
 public:
  // Completes a response: request id, metrics of the endpoint.
  using decorator = std::function<void(http_response&)>;
  // Told once, at the end: the status that the client saw.
  using on_done = std::function<void(int status)>;

  completion_job(actors::generation_service& service, std::shared_ptr<const served_model> model,
                 std::shared_ptr<frontend_metrics> metrics, answer_plan plan,
                 std::shared_ptr<exchange> to, decorator decorate, on_done done);
  ~completion_job();

  void start();  // once, on the exchange's strand

 private:
  class sink;
  struct accepted {};
  using happening =
      std::variant<accepted, std::vector<engine::token_output>, actors::generation_end>;
  struct event {
    std::uint32_t choice = 0;
    bool of_prompt = false;  // the tokens are the prompt's
    happening what;
  };
  struct choice;

  void enqueue(event e);
  void drain();
  void on_event(event& e);
  void on_accepted(choice& c);
  void on_tokens(choice& c, std::vector<engine::token_output> tokens);
  void on_finished(choice& c, actors::generation_end end);
  void close_choice(choice& c, std::string_view reason);

  void give(choice& c, choice_delta delta);
  void give_calls(choice& c, std::vector<tool_event> events, std::vector<logprob_entry> logprobs);
  std::string call_id() const;
  void give_echo(choice& c);
  void show(const choice& c, ojson shown);
  void frame(const ojson& object);
  void flush_stream();
  void try_finish();
  void finish_stream();
  void finish_whole();
  void fail(const error& cause, std::chrono::seconds retry_after = {});
  void end(int status);
  void cancel_rest();
  answer_usage usage() const;
  ojson logprobs_of(const std::vector<logprob_entry>& entries, std::size_t prompt_entries,
                    std::size_t base_offset) const;

  actors::generation_service& service_;
  const std::shared_ptr<const served_model> model_;
  const std::shared_ptr<frontend_metrics> metrics_;
  const answer_plan plan_;
  const std::shared_ptr<exchange> exchange_;
  const decorator decorate_;
  const on_done done_task_;
  choice_options options_;
  std::vector<choice> choices_;

  std::mutex mutex_;  // of the two below, nothing else
  std::vector<event> events_;
  bool drain_posted_ = false;

  std::string frames_;  // not yet given to the exchange
  bool stream_started_ = false;
  bool done_ = false;
  bool queued_ = true;  // counted in requests_queued
};

}  // namespace troupe::api
