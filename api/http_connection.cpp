#include "api/http_connection.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>

#include "api/sse.hpp"

namespace troupe::api {
namespace {

// While an answer is being made, so much of what the client sends next is read; then TCP holds it
// back.
constexpr std::size_t max_pipelined = 64u << 10;

}  // namespace

// -- the exchange that handlers hold
// --------------------------------------------------------------------------------------
class connection::http_exchange : public exchange {
 public:
  http_exchange(std::shared_ptr<connection> owner, std::uint64_t serial)
      : owner_(std::move(owner)), serial_(serial) {}

  void post(std::function<void()> task) override {
    boost::asio::post(owner_->socket_.get_executor(), std::move(task));
  }

  void respond(http_response response) override {
    if (!live() || owner_->streaming_) return;
    auto& c = *owner_;
    const bool keep = c.keep_alive_ && !response.close && !c.peer_closed_;
    std::string bytes = response_head(response, c.version_, keep, response.body.size());
    if (!c.head_only_) bytes += response.body;
    c.send(std::move(bytes));
    c.finish_answer(keep);
  }

  void start_stream(http_response head, std::chrono::milliseconds ping) override {
    if (!live() || owner_->streaming_) return;
    auto& c = *owner_;
    c.streaming_ = true;
    c.chunked_ = c.version_ == 11;
    c.keep_alive_ = c.keep_alive_ && c.chunked_ && !head.close && !c.peer_closed_;
    c.ping_ = ping;
    c.send(response_head(head, c.version_, c.keep_alive_, std::nullopt));
    c.arm_ping();
  }

  bool write(std::string_view bytes) override {
    if (!live()) return false;
    auto& c = *owner_;
    if (c.queued_.size() + c.writing_.size() - c.written_ > c.options_.max_output) {
      c.close();
      return false;
    }
    if (!bytes.empty()) {
      c.wrote_since_ping_ = true;
      c.send(c.chunked_ ? body_chunk(bytes) : std::string(bytes));
    }
    return !c.closed_;
  }

  void end_stream() override {
    if (!live()) return;
    if (owner_->chunked_) owner_->send(std::string(last_chunk));
    owner_->finish_answer(owner_->keep_alive_);
  }

  void when_closed(std::function<void()> task) override {
    if (!live())
      post(std::move(task));
    else
      owner_->closed_task_ = std::move(task);
    if (live() && owner_->peer_closed_) owner_->close();
  }

  void after(std::chrono::milliseconds delay, std::function<void()> task) override {
    if (!live()) return;
    owner_->task_timer_.expires_after(delay);
    owner_->task_timer_.async_wait([c = owner_, serial = serial_,
                                    task = std::move(task)](const boost::system::error_code& code) {
      if (!code && !c->closed_ && c->serial_ == serial && c->phase_ == phase::busy) task();
    });
  }

 private:
  bool live() const {
    return !owner_->closed_ && owner_->serial_ == serial_ && owner_->phase_ == phase::busy;
  }
  const std::shared_ptr<connection> owner_;
  const std::uint64_t serial_;
};

// -- reading
// ---------------------------------------------------------------------------------------------------------------
connection::connection(std::shared_ptr<void> context, boost::asio::ip::tcp::socket socket,
                       const http_server_options& options, std::shared_ptr<http_handler> handler,
                       std::shared_ptr<std::atomic<std::size_t>> open)
    : context_(std::move(context)),
      socket_(std::move(socket)),
      options_(options),
      handler_(std::move(handler)),
      open_(std::move(open)),
      parser_(options.limits),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()),
      ping_timer_(socket_.get_executor()),
      task_timer_(socket_.get_executor()) {
  ++*open_;
}

connection::~connection() {
  --*open_;
}

void connection::start() {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->enter(phase::idle);
    self->read();
  });
}

void connection::refuse(const api_error& e) {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this(), e] {
    http_response response = self->handler_->refuse(e);
    self->send(response_head(response, 11, false, response.body.size()) + response.body);
    self->close_when_written_ = true;
    if (self->writing_.empty()) self->linger();
  });
}

void connection::shut() {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->close(); });
}

void connection::read() {
  if (reading_ || closed_ || peer_closed_) return;
  if ((phase_ == phase::busy || !writing_.empty()) && parser_.buffered() > max_pipelined) return;
  reading_ = true;
  socket_.async_read_some(
      boost::asio::buffer(input_),
      [self = shared_from_this()](const boost::system::error_code& code, std::size_t n) {
        self->reading_ = false;
        if (!self->closed_) self->on_read(code, n);
      });
}

void connection::on_read(const boost::system::error_code& code, std::size_t bytes) {
  if (code) return on_peer_closed();
  if (phase_ == phase::lingering) return read();
  parser_.append({input_.data(), bytes});
  if (phase_ != phase::busy && writing_.empty()) process();
  read();
}

// The client closed its side, or the connection broke. A plain answer under way is still sent to
// one that only stopped sending; a generation is not worth its time.
void connection::on_peer_closed() {
  peer_closed_ = true;
  if (phase_ == phase::busy && !closed_task_) return;
  if (phase_ != phase::busy && !writing_.empty()) {
    close_when_written_ = true;
    return;
  }
  close();
}

void connection::process() {
  if (closed_ || phase_ == phase::busy || phase_ == phase::lingering) return;
  switch (parser_.advance()) {
    case request_parser::state::idle:
      return enter(phase::idle);
    case request_parser::state::header:
      return enter(phase::header);
    case request_parser::state::body:
      if (parser_.take_expects_continue()) send("HTTP/1.1 100 Continue\r\n\r\n");
      return enter(phase::body);
    case request_parser::state::failed: {
      http_response response = handler_->refuse(parser_.failure());
      send(response_head(response, 11, false, response.body.size()) + response.body);
      return finish_answer(false);
    }
    case request_parser::state::complete:
      break;
  }
  http_request request = parser_.take();
  request.received = std::chrono::steady_clock::now();
  enter(phase::busy);
  first_request_ = false;
  ++serial_;
  version_ = request.version;
  keep_alive_ = request.keep_alive;
  head_only_ = request.method == "HEAD";
  chunked_ = streaming_ = false;
  handler_->handle(std::move(request),
                   std::make_shared<http_exchange>(shared_from_this(), serial_));
}

// A phase's deadline runs from its start, however many bytes dribble in.
void connection::enter(phase next) {
  if (next == phase_ && read_timer_armed_) return;
  phase_ = next;
  read_timer_armed_ = next != phase::busy;
  std::chrono::milliseconds limit = options_.idle_timeout;
  switch (next) {
    case phase::idle:
      limit = first_request_ ? options_.header_timeout : options_.idle_timeout;
      break;
    case phase::header:
      limit = options_.header_timeout;
      break;
    case phase::body:
      limit = options_.body_timeout;
      break;
    case phase::lingering:
      limit = options_.linger;
      break;
    case phase::busy:
      read_timer_.cancel();
      return;
  }
  read_timer_.expires_after(limit);
  read_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& code) {
    // A timer that was set anew after it fired must not count.
    if (!code && !self->closed_ && self->read_timer_.expiry() <= std::chrono::steady_clock::now())
      self->on_read_timeout();
  });
}

void connection::on_read_timeout() {
  read_timer_armed_ = false;
  if (phase_ == phase::busy) return;
  if (phase_ == phase::idle || phase_ == phase::lingering) return close();
  http_response response = handler_->refuse(http_error(408, "The request was sent too slowly."));
  send(response_head(response, 11, false, response.body.size()) + response.body);
  finish_answer(false);
}

// -- writing
// ---------------------------------------------------------------------------------------------------------------
void connection::send(std::string bytes) {
  if (closed_) return;
  if (queued_.empty())
    queued_ = std::move(bytes);
  else
    queued_ += bytes;
  if (writing_.empty()) {
    writing_.swap(queued_);
    written_ = 0;
    write_some();
  }
}

void connection::write_some() {
  write_timer_.expires_after(options_.write_timeout);
  write_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& code) {
    if (!code && !self->closed_ && self->write_timer_.expiry() <= std::chrono::steady_clock::now())
      self->close();
  });
  socket_.async_write_some(
      boost::asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](const boost::system::error_code& code, std::size_t n) {
        if (!self->closed_) self->on_written(code, n);
      });
}

void connection::on_written(const boost::system::error_code& code, std::size_t bytes) {
  if (code) return close();
  written_ += bytes;
  if (written_ < writing_.size()) return write_some();
  writing_.clear();
  written_ = 0;
  if (!queued_.empty()) {
    writing_.swap(queued_);
    return write_some();
  }
  write_timer_.cancel();
  if (close_when_written_) return linger();
  if (phase_ != phase::busy) {
    process();
    read();
  }
}

void connection::finish_answer(bool keep_alive) {
  closed_task_ = nullptr;
  streaming_ = false;
  ping_timer_.cancel();
  task_timer_.cancel();
  phase_ = phase::idle;
  read_timer_armed_ = false;
  read_timer_.cancel();
  if (!keep_alive) close_when_written_ = true;
  if (!writing_.empty()) return;  // the next request is looked at when all is written
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->closed_) return;
    if (self->close_when_written_) return self->linger();
    self->process();
    self->read();
  });
}

// A close with unread input resets the connection and may take the answer with it, so read on for a
// while.
void connection::linger() {
  if (closed_) return;
  if (peer_closed_) return close();
  boost::system::error_code ignored;
  socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
  enter(phase::lingering);
  read();
}

void connection::close() {
  if (closed_) return;
  closed_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  read_timer_.cancel();
  write_timer_.cancel();
  ping_timer_.cancel();
  task_timer_.cancel();
  if (auto task = std::exchange(closed_task_, nullptr)) task();
}

void connection::arm_ping() {
  if (ping_.count() <= 0) return;
  wrote_since_ping_ = false;
  ping_timer_.expires_after(ping_);
  ping_timer_.async_wait(
      [self = shared_from_this(), serial = serial_](const boost::system::error_code& code) {
        if (code || self->closed_ || self->serial_ != serial || !self->streaming_) return;
        if (!self->wrote_since_ping_ && self->writing_.empty())
          self->send(self->chunked_ ? body_chunk(sse_ping) : std::string(sse_ping));
        self->arm_ping();
      });
}

}  // namespace troupe::api
